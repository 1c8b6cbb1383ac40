"""What can be ordered: regions, sizes and images. Sizes are a choice of DigitalOcean's, with their prices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lab.api.config import Config, RegionConfig
from lab.api.store import Doc

REGION_FEATURES = ["backups", "ipv6", "metadata", "install_agent", "storage", "image_transfer"]
IMAGE_CREATED_AT = "2025-08-11T00:00:00Z"
_FIRST_IMAGE_ID = 1301


@dataclass(frozen=True)
class Size:
    """memory in MB, disk in GB, transfer in TB, price in USD a month."""

    slug: str
    memory: int
    vcpus: int
    disk: int
    transfer: float
    price_monthly: float
    description: str = "Basic"


SIZES = {
    size.slug: size
    for size in (
        Size("s-1vcpu-512mb-10gb", 512, 1, 10, 0.5, 4),
        Size("s-1vcpu-1gb", 1024, 1, 25, 1, 6),
        Size("s-1vcpu-2gb", 2048, 1, 50, 2, 12),
        Size("s-2vcpu-2gb", 2048, 2, 60, 3, 18),
        Size("s-2vcpu-4gb", 4096, 2, 80, 4, 24),
        Size("s-4vcpu-8gb", 8192, 4, 160, 5, 48),
        Size("s-8vcpu-16gb", 16384, 8, 320, 6, 96),
        Size("c-2", 4096, 2, 25, 4, 42, "CPU-Optimized"),
        Size("g-2vcpu-8gb", 8192, 2, 25, 4, 63, "General Purpose"),
        Size("m-2vcpu-16gb", 16384, 2, 50, 4, 84, "Memory-Optimized"),
    )
}


def region_view(config: Config, region: RegionConfig) -> dict[str, Any]:
    return {
        "name": region.name,
        "slug": region.slug,
        "features": REGION_FEATURES,
        "available": True,
        "sizes": list(SIZES),
    }


def size_view(config: Config, size: Size) -> dict[str, Any]:
    return {
        "slug": size.slug,
        "memory": size.memory,
        "vcpus": size.vcpus,
        "disk": size.disk,
        "transfer": size.transfer,
        "price_monthly": float(size.price_monthly),
        "price_hourly": round(size.price_monthly / 672, 5),
        "regions": [region.slug for region in config.regions],
        "available": True,
        "description": size.description,
        "disk_info": [{"type": "local", "size": {"amount": size.disk, "unit": "gib"}}],
    }


def base_images(config: Config) -> list[Doc]:
    """The public images: those the lab can really boot."""
    return [_base_image(config, number, slug) for number, slug in enumerate(config.images)]


def _base_image(config: Config, number: int, slug: str) -> Doc:
    family, _, rest = slug.partition("-")
    return {
        "id": _FIRST_IMAGE_ID + number,
        "name": rest.replace("-", " "),
        "distribution": family.capitalize(),
        "slug": slug,
        "public": True,
        "regions": [region.slug for region in config.regions],
        "created_at": IMAGE_CREATED_AT,
        "type": "base",
        "min_disk_size": 10,
        "size_gigabytes": 0.32,
        "description": f"{slug}",
        "tags": [],
        "status": "available",
        "error_message": "",
    }
