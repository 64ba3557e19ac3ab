"""Ready-made components, each as a user would have written it, and the workers that offer them."""

from stepmesh_components.workers import BUILTIN_POOL, builtin_worker, mock_worker

__all__ = ["BUILTIN_POOL", "builtin_worker", "mock_worker"]
