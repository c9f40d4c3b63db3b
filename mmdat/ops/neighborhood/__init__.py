"""Neighborhood attention: ``api`` has the public function; ``dense`` and ``tiled`` compute it."""
