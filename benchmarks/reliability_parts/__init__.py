"""Parts of the reliability scoreboard: damaged files, kills, failing disks, threads."""
