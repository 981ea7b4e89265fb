// Stands in for zarrita: the page opens NIfTI volumes only, so that remote zarr stores stay out of the bundle.
export {};
