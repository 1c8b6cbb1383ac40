"""The Pulumi program: what exists, and nothing about who is primary."""
