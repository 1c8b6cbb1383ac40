"""`make kills`: service, Litestream, host and store killed at random moments under load; a restore to show for each.

`plan.py` draws the kills from a seed and `verdict.py` judges them (both pure); `site.py` is a service with its host,
its exchange and its load; `host.py` is what runs on the host; `store.py` the vault; `campaign.py` goes through it all.
"""
