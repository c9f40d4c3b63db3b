"""Synthetic drawings of shapes, as data sets for detection, segmentation and classification.

``drawing`` draws one image, ``files`` a folder of them; ``coco``, ``segment`` and ``classify`` each
write the layout that the toolbox of a task reads, and need that toolbox.
"""
