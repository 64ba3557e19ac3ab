"""`stepmesh mcp`: flows as tools of the Model Context Protocol."""
