#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent.h"

/*
 * A file that is being written. "Atomic" means: into a file beside it, which takes its place at the end. An existing file
 * then keeps its mode and owner, and a symbolic link stays one: what it points to is replaced.
 */

static int open_beside(struct target *t, const char *path, uint32_t mode) {
  static uint32_t counter;
  struct stat old;
  bool exists = stat(path, &old) == 0;
  if (exists && !S_ISREG(old.st_mode)) return S_ISDIR(old.st_mode) ? EISDIR : EINVAL;
  t->final = exists ? realpath(path, NULL) : strdup(path);
  if (!t->final) return errno;
  const char *slash = strrchr(t->final, '/');
  int folder = slash ? (int)(slash - t->final) + 1 : 0;
  if (asprintf(&t->temporary, "%.*s.smolvm-%d-%u", folder, t->final, (int)getpid(), ++counter) < 0) {
    t->temporary = NULL;
    return ENOMEM;
  }
  unlink(t->temporary); /* left by an earlier boot of this disk */
  t->fd = open(t->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (t->fd < 0) {
    int error = errno;
    free(t->temporary);
    t->temporary = NULL;
    return error;
  }
  if (exists && fchown(t->fd, old.st_uid, old.st_gid) < 0 && geteuid() == 0) return errno;
  return fchmod(t->fd, exists ? old.st_mode & 07777 : mode) < 0 ? errno : 0;
}

int target_open(struct target *t, const char *path, uint8_t flags, uint32_t mode) {
  *t = (struct target){.fd = -1, .sync = flags & TARGET_SYNC};
  mode &= 07777;
  int error = 0;
  if (flags & TARGET_ATOMIC) {
    error = open_beside(t, path, mode);
  } else {
    int how = O_WRONLY | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK; /* a FIFO without a reader is ENXIO, not a wait */
    if (flags & TARGET_APPEND) {
      how |= O_APPEND;
    } else {
      how |= flags & TARGET_EXCLUSIVE ? O_EXCL : O_TRUNC;
    }
    t->fd = open(path, how, mode);
    if (t->fd < 0) error = errno;
  }
  return error ? target_finish(t, error) : 0;
}

/* Closes it; puts it in place if all went well so far, and removes it if not. */
int target_finish(struct target *t, int error) {
  if (!error && t->sync && fsync(t->fd) < 0 && errno != EINVAL && errno != EROFS) error = errno;
  if (t->fd >= 0 && close(t->fd) < 0 && !error) error = errno;
  t->fd = -1;
  if (t->temporary) {
    if (!error && rename(t->temporary, t->final) < 0) error = errno;
    if (error) unlink(t->temporary);
  }
  free(t->temporary);
  free(t->final);
  t->temporary = t->final = NULL;
  return error;
}
