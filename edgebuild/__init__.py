"""edgebuild builds the fastest model artifact that is proven, on the device, to stay inside an accuracy budget."""
