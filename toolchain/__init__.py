"""What the project needs from the machine it runs on, each built once into a cache outside the checkout.

Standard library only: it runs with the system's Python before the project's venv exists. Every ``ensure()`` is
idempotent, cheap when there is nothing to do, safe to run twice at once, and leaves nothing half-made when killed.
"""
