"""The control plane: identity, policy, review, training, execution and audit behind one port."""
