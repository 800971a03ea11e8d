"""Evidence: what a verdict rests on, for whoever looks at it afterwards.

`numbers` is made with the verdict, in the same worker process, and its digest is in the audit
record. Pictures, page and signature are made when somebody first asks (`downloads`).
"""
