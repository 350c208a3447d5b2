"""What was made without the journal, taken in: another memory.db, agent files, rows and models changed past it."""
