"""Reading folders of music in child processes, health table, augmentation."""
