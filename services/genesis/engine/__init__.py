"""The trading engine.  It runs on a droplet with the standard library and apsw alone.

Imports are relative throughout: here the package is ``services.genesis.engine``, in the bundle on a host ``engine``.
"""
