"""Parts of sim_speed.py and ops_speed.py: rivals, timing, reports."""
