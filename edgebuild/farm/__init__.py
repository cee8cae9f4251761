"""The device farm: boards shared by people and CI. One server keeps the tables, hosts keep the boards."""
