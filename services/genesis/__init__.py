"""The reference service: a small trading engine, the exchange it trades on, and a client that keeps the ledger."""
