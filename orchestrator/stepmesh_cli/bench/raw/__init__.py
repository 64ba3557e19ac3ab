"""A broker's own rate: its plain client, and nothing of Stepmesh, moves messages like those of a scenario through the same server."""
