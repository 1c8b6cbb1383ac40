"""Procedures, one file each: what must be done, as steps over the doors in lifeline."""
