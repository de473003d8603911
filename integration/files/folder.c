/* folder.c - files of a model folder. */
#include "integration/files/folder.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

kvp_status folder_path(const char *dir, const char *name, char path[FOLDER_PATH_BYTES])
{
    int n = snprintf(path, FOLDER_PATH_BYTES, "%s/%s", dir, name);
    if (n < 0 || n >= FOLDER_PATH_BYTES)
        return kvp_fail(KVP_E_INVALID, "the path of %s in the model folder is too long", name);
    return KVP_OK;
}

bool folder_has(const char *dir, const char *name)
{
    char path[FOLDER_PATH_BYTES];
    struct stat st;
    return !folder_path(dir, name, path) && stat(path, &st) == 0;
}

kvp_status folder_check(const char *dir)
{
    struct stat st;
    if (stat(dir, &st))
        return kvp_fail(KVP_E_IO, "%s: %s", dir,
                        errno == ENOENT ? "no such folder" : strerror(errno));
    return S_ISDIR(st.st_mode) ? KVP_OK
                               : kvp_fail(KVP_E_IO,
                                          "%s: is neither a model folder nor a file whose "
                                          "name ends in .gguf",
                                          dir);
}

static kvp_status check_regular(int fd, const char *path, size_t limit_bytes, size_t *size)
{
    struct stat st;
    if (fstat(fd, &st))
        return kvp_fail(KVP_E_IO, "%s: %s", path, strerror(errno));
    if (S_ISDIR(st.st_mode))
        return kvp_fail(KVP_E_IO, "%s: is a directory, not a file", path);
    if (!S_ISREG(st.st_mode))
        return kvp_fail(KVP_E_IO, "%s: is not a regular file", path);
    if ((size_t)st.st_size > limit_bytes)
        return kvp_fail(KVP_E_INVALID,
                        "%s: %zu bytes are more than this file can sensibly have (%zu)", path,
                        (size_t)st.st_size, limit_bytes);
    *size = (size_t)st.st_size;
    return KVP_OK;
}

static kvp_status read_all(int fd, const char *path, char *buf, size_t size)
{
    for (size_t done = 0; done < size;) {
        ssize_t n = read(fd, buf + done, size - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return kvp_fail(KVP_E_IO, "%s: %s", path, strerror(errno));
        if (n == 0)
            return kvp_fail(KVP_E_IO, "%s: became shorter while it was read", path);
        done += (size_t)n;
    }
    buf[size] = '\0';
    return KVP_OK;
}

kvp_status folder_read(const char *dir, const char *name, size_t limit_bytes, char **bytes,
                       size_t *n)
{
    char path[FOLDER_PATH_BYTES];
    kvp_status status = folder_path(dir, name, path);
    if (status)
        return status;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return kvp_fail(KVP_E_IO, "%s: %s", path, strerror(errno));
    char *buf = NULL;
    size_t size = 0;
    status = check_regular(fd, path, limit_bytes, &size);
    if (status)
        goto done;
    buf = malloc(size + 1);
    if (!buf) {
        status = kvp_fail(KVP_E_NOMEM, "out of memory: %zu bytes for %s", size, path);
        goto done;
    }
    status = read_all(fd, path, buf, size);
    if (status)
        goto done;
    *bytes = buf;
    *n = size;
    buf = NULL;
done:
    free(buf);
    close(fd);
    return status;
}
