"""Durable functions: asyncio bodies whose steps, sleeps and waits are journaled, and that are replayed from the journal."""
