"""Did it help? That the cluster took a change heals nobody: it is watched until that is known."""
