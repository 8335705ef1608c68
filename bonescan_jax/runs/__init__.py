"""What a run leaves in its workdir and needs to continue."""
