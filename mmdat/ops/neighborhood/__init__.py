"""Neighborhood attention: ``api`` has the public function, the other modules compute it."""
