"""Bytes that outlive us: named, encrypted, in a folder or in S3."""
