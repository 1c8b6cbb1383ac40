"""What a droplet's actions do to its machine.

Runs in a worker, one action at a time per droplet, and raises when it can't be done.
"""

from __future__ import annotations

from lab.api import actions, droplets, firewalls, projects
from lab.api.cloud import Cloud
from lab.api.errors import server_error
from lab.api.images import find_image, snapshot_doc
from lab.api.store import Doc


def _droplet(cloud: Cloud, action: Doc) -> Doc:
    doc = cloud.store.get("droplet", action["resource_id"])
    if doc is None or doc["state"] == "destroying":
        raise RuntimeError("the droplet was destroyed meanwhile")
    return doc


def _create(cloud: Cloud, action: Doc) -> None:
    droplet = _droplet(cloud, action)
    try:
        cloud.machines.create(droplets.spec(cloud, droplet))
        firewalls.enforce(cloud)  # rules and tags may have changed while it booted
    finally:
        # Never "new" again: if it could not be made, its status says what the machine is, which is "off".
        cloud.store.update("droplet", droplet["id"], state="made")


def _power_on(cloud: Cloud, action: Doc) -> None:
    cloud.machines.power_on(_droplet(cloud, action)["id"])


def _power_off(cloud: Cloud, action: Doc) -> None:
    cloud.machines.power_off(_droplet(cloud, action)["id"])


def _shutdown(cloud: Cloud, action: Doc) -> None:
    cloud.machines.shutdown(_droplet(cloud, action)["id"])


def _reboot(cloud: Cloud, action: Doc) -> None:
    _shutdown(cloud, action)
    _power_on(cloud, action)


def _power_cycle(cloud: Cloud, action: Doc) -> None:
    _power_off(cloud, action)
    _power_on(cloud, action)


def _rebuild(cloud: Cloud, action: Doc) -> None:
    """A new disk from another image; a restore is the same with a snapshot."""
    droplet = _droplet(cloud, action)
    image = find_image(cloud, action["params"]["image"])
    if image is None:
        raise RuntimeError("the image was deleted meanwhile")
    cloud.machines.rebuild(droplets.spec(cloud, droplet, image=image))
    cloud.store.update("droplet", droplet["id"], image=image)
    firewalls.enforce(cloud, again=droplet["id"])


def _resize(cloud: Cloud, action: Doc) -> None:
    droplet = _droplet(cloud, action)
    changed = {**droplet, "size": action["params"]["size"], "disk": action["params"]["disk"]}
    cloud.machines.resize(droplets.spec(cloud, changed))
    cloud.store.update("droplet", droplet["id"], size=changed["size"], disk=changed["disk"])


def _rename(cloud: Cloud, action: Doc) -> None:
    cloud.store.update("droplet", _droplet(cloud, action)["id"], name=action["params"]["name"])


def _snapshot(cloud: Cloud, action: Doc) -> None:
    droplet, id_ = _droplet(cloud, action), action["params"]["image_id"]
    size = cloud.machines.snapshot(droplet["id"], str(id_))
    cloud.store.put("image", id_, snapshot_doc(id_, action["params"]["name"], droplet, action["started_at"], size))


def _set_backups(cloud: Cloud, action: Doc) -> None:
    policy = action["params"]["backup_policy"]
    cloud.store.update("droplet", _droplet(cloud, action)["id"], backups=policy is not None, backup_policy=policy)


def _enable_ipv6(cloud: Cloud, action: Doc) -> None:
    cloud.store.update("droplet", _droplet(cloud, action)["id"], ipv6=True)


actions.WORK.update(
    create=_create,
    power_on=_power_on,
    power_off=_power_off,
    shutdown=_shutdown,
    reboot=_reboot,
    power_cycle=_power_cycle,
    password_reset=_power_cycle,  # DigitalOcean restarts the droplet and mails a password; there is no mail here
    rebuild=_rebuild,
    restore=_rebuild,
    resize=_resize,
    rename=_rename,
    snapshot=_snapshot,
    enable_backups=_set_backups,
    disable_backups=_set_backups,
    change_backup_policy=_set_backups,
    enable_ipv6=_enable_ipv6,
)


def destroy(cloud: Cloud, droplet_id: int) -> None:
    """Machine, disk and every reference to it are gone when this returns. Idempotent; resumed after a restart."""
    with cloud.machine_lock(droplet_id):
        if cloud.store.update("droplet", droplet_id, state="destroying", locked=True) is None:
            return
        try:
            cloud.machines.destroy(droplet_id)
        except Exception as error:
            cloud.store.update("droplet", droplet_id, state="made", locked=False)
            raise server_error(f"The droplet could not be destroyed: {error}") from error
        with cloud.store.transaction():
            _forget(cloud, droplet_id)
        firewalls.forget(cloud, droplet_id)
    firewalls.enforce(cloud)


def _forget(cloud: Cloud, droplet_id: int) -> None:
    store = cloud.store
    store.delete("droplet", droplet_id)
    for firewall in store.all("firewall"):
        if droplet_id in firewall["droplet_ids"]:
            store.update(
                "firewall", firewall["id"], droplet_ids=[i for i in firewall["droplet_ids"] if i != droplet_id]
            )
    for volume in store.all("volume"):
        if droplet_id in volume["droplet_ids"]:
            store.update("volume", volume["id"], droplet_ids=[])
    for reserved in store.all("reserved_ip"):
        if reserved["droplet_id"] == droplet_id:
            store.update("reserved_ip", reserved["ip"], droplet_id=None)
    projects.unassign(cloud, f"do:droplet:{droplet_id}")


def resume(cloud: Cloud) -> None:
    """After a restart: finish destroying what was being destroyed."""
    for droplet in cloud.store.all("droplet"):
        if droplet["state"] == "destroying":
            cloud.workers.submit(destroy, cloud, droplet["id"])
