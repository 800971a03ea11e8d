"""Evidence bundles: what a review rests on, in one file that anybody can check without us.

A bundle is a ZIP file (`archive`) of evidence.json, the pictures, a page for people, and a manifest
that lists them and is signed by the server (`manifest`). `verification` checks all of it offline.
The server writes bundles with the same code (`aegis_server.review.evidence`).
"""
