"""Video object segmentation: labels of the first frame are propagated to the others through patch features."""
