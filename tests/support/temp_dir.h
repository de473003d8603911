/* temp_dir.h - a folder of a test's own. Failures fail the test. */
#ifndef TESTS_TEMP_DIR_H
#define TESTS_TEMP_DIR_H

#include <stddef.h>

#define TEMP_DIR_BYTES 64

/* An empty folder in /tmp; its path goes to dir. */
void temp_dir_make(char dir[TEMP_DIR_BYTES]);
/* Write (or replace) the file dir/name. */
void temp_dir_write(const char *dir, const char *name, const void *bytes, size_t n);
void temp_dir_write_text(const char *dir, const char *name, const char *text);
/* Remove the folder with the files in it. */
void temp_dir_remove(const char *dir);

#endif
