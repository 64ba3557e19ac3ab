"""What an orchestrator tells of its turns: spans made from events, and metrics. `setup.start` puts it together, or says that it is off."""
