"""Lifeline: disaster recovery for SQLite services, rehearsed."""
