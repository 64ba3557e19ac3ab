"""The stream application over a journal in Kafka: it keeps the read model and windowed numbers of a namespace."""
