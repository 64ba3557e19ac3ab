"""Backends of the Membership port."""
