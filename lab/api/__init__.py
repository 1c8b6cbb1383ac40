"""A simulator of DigitalOcean's API v2, for any client of that API. What it decides, `lab.ports` makes real."""
