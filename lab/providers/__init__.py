"""Stand-ins for Pulumi's DigitalOcean and AWS providers, for machines where the real plugins can't be had.

They speak Pulumi's provider protocol on one side and the lab's APIs on the other, for the resource types that `infra`
uses.
"""

from lab.providers.choice import available

__all__ = ["available"]
