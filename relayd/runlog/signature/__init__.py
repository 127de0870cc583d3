"""Signatures of run logs: S/MIME, built on MIME, CMS, DER and certificates."""
