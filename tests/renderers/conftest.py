"""Its folder is put on the import path, so that tests in sub-folders find the helpers here."""
