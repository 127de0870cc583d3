"""Signatures of run logs: S/MIME and below it MIME, CMS, DER and certificates."""
