"""Pictures of flows: what to draw, where, and in which form."""

from stepmesh_cli.picture.graph import Edge, EdgeKind, Graph, Node, NodeKind, graph_of

__all__ = ["Edge", "EdgeKind", "Graph", "Node", "NodeKind", "graph_of"]
