"""Generated from broker/proto by `./dev proto`; never edited."""
