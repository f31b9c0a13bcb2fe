#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "agent.h"

/* File operations that are one system call or two: done in place, as nothing in them waits for long. */
enum file_op {
  FILE_STAT = 32,
  FILE_LSTAT = 33,
  FILE_MKDIR = 34,
  FILE_RENAME = 35,
  FILE_CHMOD = 36,
  FILE_CHOWN = 37,
  FILE_LCHOWN = 38,
  FILE_UTIMES = 39,
  FILE_LUTIMES = 40,
  FILE_SYMLINK = 41,
  FILE_READLINK = 42,
  FILE_LINK = 43,
  FILE_TRUNCATE = 44,
  FILE_PUT = 45,
};

static int result(int value) { return value < 0 ? errno : 0; }

static void put_time(struct writer *w, struct timespec t) {
  put_u64(w, (uint64_t)t.tv_sec);
  put_u32(w, (uint32_t)t.tv_nsec);
}

static int do_stat(const char *path, int flags, struct writer *reply) {
  struct stat s;
  if (fstatat(AT_FDCWD, path, &s, flags) < 0) return errno;
  put_u32(reply, s.st_mode);
  put_u32(reply, s.st_uid);
  put_u32(reply, s.st_gid);
  put_u64(reply, (uint64_t)s.st_size);
  put_u64(reply, (uint64_t)s.st_nlink);
  put_u64(reply, s.st_ino);
  put_u64(reply, s.st_dev);
  put_time(reply, s.st_atim);
  put_time(reply, s.st_mtim);
  put_time(reply, s.st_ctim);
  return 0;
}

static int make_recursively(const char *path, mode_t mode) {
  char part[PATH_MAX];
  size_t length = strlen(path);
  if (length >= sizeof part) return ENAMETOOLONG;
  for (size_t i = 1; i <= length; i++) {
    if (path[i] != '/' && path[i] != 0) continue;
    memcpy(part, path, i);
    part[i] = 0;
    if (mkdir(part, mode) == 0 || errno == EEXIST) continue;
    if (errno != EROFS && errno != EACCES && errno != EPERM) return errno;
    /* A folder that is there may say EROFS instead of EEXIST. */
    int error = errno;
    struct stat s;
    if (stat(part, &s) < 0) return error;
  }
  struct stat s;
  if (stat(path, &s) < 0) return errno;
  return S_ISDIR(s.st_mode) ? 0 : EEXIST;
}

void make_folders(const char *path) { make_recursively(path, 0755); }

static struct timespec get_time(struct reader *r) {
  struct timespec t = {.tv_sec = (time_t)get_u64(r)};
  t.tv_nsec = (long)get_u32(r);
  return t;
}

/* A whole small file in one message. */
static int put_file(struct reader *r) {
  uint8_t flags = get_u8(r);
  uint32_t mode = get_u32(r), length;
  const char *path = get_string(r);
  const uint8_t *bytes = get_bytes(r, &length);
  if (r->bad) return 0;
  struct target target;
  int error = target_open(&target, path, flags, mode);
  if (error) return error;
  while (length > 0 && !error) {
    ssize_t n = write(target.fd, bytes, length);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      error = errno;
    } else {
      bytes += n;
      length -= (uint32_t)n;
    }
  }
  return target_finish(&target, error);
}

int file_operation(uint16_t op, struct reader *r, struct writer *reply, const char **stage) {
  (void)stage;
  if (op == FILE_PUT) return put_file(r);
  const char *path = get_string(r);
  switch (op) {
  case FILE_STAT:
    return r->bad ? 0 : do_stat(path, 0, reply);
  case FILE_LSTAT:
    return r->bad ? 0 : do_stat(path, AT_SYMLINK_NOFOLLOW, reply);
  case FILE_MKDIR: {
    uint32_t mode = get_u32(r);
    bool recursive = get_u8(r);
    if (r->bad) return 0;
    return recursive ? make_recursively(path, mode & 07777) : result(mkdir(path, mode & 07777));
  }
  case FILE_RENAME: {
    const char *to = get_string(r);
    return r->bad ? 0 : result(rename(path, to));
  }
  case FILE_CHMOD: {
    uint32_t mode = get_u32(r);
    return r->bad ? 0 : result(chmod(path, mode & 07777));
  }
  case FILE_CHOWN:
  case FILE_LCHOWN: {
    uint32_t uid = get_u32(r), gid = get_u32(r);
    int flags = op == FILE_LCHOWN ? AT_SYMLINK_NOFOLLOW : 0;
    return r->bad ? 0 : result(fchownat(AT_FDCWD, path, uid, gid, flags));
  }
  case FILE_UTIMES:
  case FILE_LUTIMES: {
    struct timespec times[2] = {get_time(r), get_time(r)};
    int flags = op == FILE_LUTIMES ? AT_SYMLINK_NOFOLLOW : 0;
    return r->bad ? 0 : result(utimensat(AT_FDCWD, path, times, flags));
  }
  case FILE_SYMLINK: {
    const char *target = get_string(r);
    return r->bad ? 0 : result(symlink(target, path));
  }
  case FILE_LINK: {
    const char *existing = get_string(r);
    return r->bad ? 0 : result(link(existing, path));
  }
  case FILE_READLINK: {
    char target[PATH_MAX + 1];
    ssize_t n = r->bad ? 0 : readlink(path, target, PATH_MAX);
    if (n < 0) return errno;
    target[n] = 0;
    put_string(reply, target);
    return 0;
  }
  case FILE_TRUNCATE: {
    uint64_t length = get_u64(r);
    return r->bad ? 0 : result(truncate(path, (off_t)length));
  }
  default:
    r->bad = true;
    return 0;
  }
}
