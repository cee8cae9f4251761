"""What a device measured of single layers."""
