/* replay.c - feeds a fuzz target the files of a folder: for compilers without libFuzzer.
 *
 * Each file is tried whole, and without its last 1, 2 ... CUTS bytes, in memory of exactly that
 * size, so that AddressSanitizer sees reads past the end. */
#include "tests/fuzz/target.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define CUTS ((size_t)256)

static void replay_cut(const uint8_t *bytes, size_t n)
{
    uint8_t *copy = malloc(n);
    if (n)
        memcpy(copy, bytes, n);
    LLVMFuzzerTestOneInput(copy, n);
    free(copy);
}

static int replay(const char *path)
{
    struct stat info;
    FILE *file = fopen(path, "rb");
    if (!file || fstat(fileno(file), &info)) {
        perror(path);
        return 1;
    }
    size_t n = (size_t)info.st_size;
    uint8_t *bytes = malloc(n ? n : 1);
    int failed = !bytes || fread(bytes, 1, n, file) != n;
    if (failed)
        perror(path);
    size_t least = n > CUTS ? n - CUTS : 0;
    for (size_t left = n; !failed && left > least; left--)
        replay_cut(bytes, left);
    if (!failed && !least)
        replay_cut(bytes, 0);
    free(bytes);
    fclose(file);
    return failed;
}

int main(int argc, char **argv)
{
    DIR *folder = argc == 2 ? opendir(argv[1]) : NULL;
    if (!folder) {
        fprintf(stderr, "usage: %s FOLDER\n", argv[0]);
        return 2;
    }
    size_t n_inputs = 0;
    int failed = 0;
    for (struct dirent *entry; (entry = readdir(folder)) && !failed;) {
        char path[4096];
        if (entry->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "%s/%s", argv[1], entry->d_name);
        failed = replay(path);
        n_inputs++;
    }
    closedir(folder);
    printf("%zu inputs\n", n_inputs);
    return failed || !n_inputs;
}
