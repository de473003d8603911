/* temp_dir.c - a folder of a test's own. */
#include "tests/support/temp_dir.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void temp_dir_make(char dir[TEMP_DIR_BYTES])
{
    strcpy(dir, "/tmp/kvpager-test-XXXXXX");
    assert_non_null(mkdtemp(dir));
}

void temp_dir_write(const char *dir, const char *name, const void *bytes, size_t n)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, n, file), n);
    assert_int_equal(fclose(file), 0);
}

void temp_dir_write_text(const char *dir, const char *name, const char *text)
{
    temp_dir_write(dir, name, text, strlen(text));
}

void temp_dir_remove(const char *dir)
{
    DIR *listing = opendir(dir);
    assert_non_null(listing);
    for (struct dirent *entry; (entry = readdir(listing));) {
        char path[512];
        snprintf(path, sizeof path, "%s/%s", dir, entry->d_name);
        if (entry->d_name[0] != '.')
            unlink(path);
    }
    closedir(listing);
    assert_int_equal(rmdir(dir), 0);
}
