"""Deformable attention, whose public functions are in ``api``.

The modules ``dense``, ``tiled``, ``triton`` and ``log_spaced`` compute it, and
``mmdat.ops.compiled``; ``sampling`` is shared.
"""
