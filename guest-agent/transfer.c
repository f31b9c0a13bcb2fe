#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "agent.h"

/* File operations of any size. What fits in one frame is answered at once; the rest is a job that can wait and be killed. */


enum { COPY_SIZE = 256 * 1024 };

static int write_all(int fd, const uint8_t *bytes, size_t length) {
  while (length > 0) {
    ssize_t n = write(fd, bytes, length);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno;
    bytes += n;
    length -= (size_t)n;
  }
  return 0;
}

/* File at 2 to the pipe at 1. */
static int run_read(void *context) {
  uint64_t left = *(uint64_t *)context;
  static uint8_t buffer[COPY_SIZE];
  bool spliced = true;  /* from the page cache to the pipe, without a copy */
  fcntl(2, F_SETFL, 0); /* it was opened so as not to hang in open; reading may wait, as this is its own process */
  while (left > 0) {
    size_t want = left < sizeof buffer ? (size_t)left : sizeof buffer;
    ssize_t n = spliced ? splice(2, NULL, 1, NULL, want, SPLICE_F_MOVE) : read(2, buffer, want);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && spliced && errno == EINVAL) {
      spliced = false; /* not every kind of file can */
      continue;
    }
    if (n < 0) return errno;
    if (n == 0) return 0;
    int error = spliced ? 0 : write_all(1, buffer, (size_t)n);
    if (error) return error;
    left -= (uint64_t)n;
  }
  return 0;
}

void file_read(struct lane *lane, uint32_t channel, struct reader *r) {
  uint64_t start = get_u64(r), length = get_u64(r);
  uint32_t credit = get_u32(r);
  const char *path = get_string(r);
  if (r->bad) return;
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
  if (fd < 0) return lane_fail(lane, channel, errno, "open");
  struct stat s;
  if (fstat(fd, &s) < 0 || S_ISDIR(s.st_mode)) {
    close(fd);
    return lane_fail(lane, channel, EISDIR, "read");
  }
  if (start > 0 && lseek(fd, (off_t)start, SEEK_SET) < 0) {
    lane_fail(lane, channel, errno, "seek");
    close(fd);
    return;
  }
  bool over = length == 0;
  if (S_ISREG(s.st_mode) && credit > FRAME_COST && !over) {
    size_t want = credit - FRAME_COST < DATA_PAYLOAD ? credit - FRAME_COST : DATA_PAYLOAD;
    if (want > length) want = (size_t)length;
    uint8_t *at = lane_reserve(lane, want);
    size_t used = 0;
    while (used < want) {
      ssize_t n = read(fd, at + used, want - used);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) {
        lane_fail(lane, channel, errno, "read");
        close(fd);
        return;
      }
      if (n == 0) over = true;
      if (n == 0) break;
      used += (size_t)n;
    }
    if (used > 0) {
      lane_commit(lane, channel, FRAME_DATA, 1, used);
      credit -= (uint32_t)used + FRAME_COST;
      length -= used;
    }
    if (length == 0) over = true;
  }
  if (over) {
    lane_send(lane, channel, FRAME_REPLY, 0, NULL, 0);
  } else {
    struct job job = {.work = run_read, .context = &length, .fd = fd, .output = true, .credit = credit};
    job_start(lane, channel, &job, "read");
  }
  close(fd);
}

/* The pipe at 0 to the file at 2. */
static int run_write(void *context) {
  struct target *target = context;
  static uint8_t buffer[COPY_SIZE];
  int error = 0;
  bool spliced = true; /* from the pipe to the page cache, with one copy less */
  fcntl(2, F_SETFL, fcntl(2, F_GETFL) & ~O_NONBLOCK);
  target->fd = 2;
  while (!error) {
    ssize_t n = spliced ? splice(0, NULL, 2, NULL, sizeof buffer, SPLICE_F_MOVE) : read(0, buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && spliced && errno == EINVAL) {
      spliced = false; /* nor can a file that is appended to */
      continue;
    }
    if (n == 0) break;
    error = n < 0 ? errno : spliced ? 0 : write_all(2, buffer, (size_t)n);
  }
  return target_finish(target, error);
}

void file_write(struct lane *lane, uint32_t channel, struct reader *r) {
  uint8_t flags = get_u8(r);
  uint32_t mode = get_u32(r);
  const char *path = get_string(r);
  if (r->bad) return;
  struct target target;
  int error = target_open(&target, path, flags, mode);
  if (error) return lane_fail(lane, channel, error, "open");
  struct job job = {.work = run_write, .context = &target, .fd = target.fd, .input = true};
  if (target.temporary) job.scrap = strdup(target.temporary);
  job_start(lane, channel, &job, "write");
  close(target.fd);
  free(target.temporary);
  free(target.final);
}

struct listing {
  struct writer writer;
  int fd; /* where full buffers go, -1: the buffer is all there is */
  uint8_t *start;
};

static uint8_t kind_of(int folder, const char *name, unsigned char type) {
  if (type != DT_UNKNOWN) return type;
  struct stat s;
  return fstatat(folder, name, &s, AT_SYMLINK_NOFOLLOW) < 0 ? DT_UNKNOWN : (uint8_t)IFTODT(s.st_mode);
}

static int list(DIR *folder, struct listing *listing) {
  for (;;) {
    errno = 0;
    struct dirent *entry = readdir(folder);
    if (!entry) return errno;
    if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
    struct writer *w = &listing->writer;
    if ((size_t)(w->end - w->at) < sizeof entry->d_name + 16) {
      if (listing->fd < 0) return EOVERFLOW;
      int error = write_all(listing->fd, listing->start, (size_t)(w->at - listing->start));
      if (error) return error;
      w->at = listing->start;
    }
    put_u8(w, kind_of(dirfd(folder), entry->d_name, entry->d_type));
    put_string(w, entry->d_name);
  }
}

static int run_list(void *context) {
  (void)context;
  static uint8_t buffer[COPY_SIZE];
  DIR *folder = fdopendir(2);
  if (!folder) return errno;
  rewinddir(folder);
  struct listing listing = {.writer = {.at = buffer, .end = buffer + sizeof buffer}, .fd = 1, .start = buffer};
  int error = list(folder, &listing);
  return error ? error : write_all(1, buffer, (size_t)(listing.writer.at - buffer));
}

void file_list(struct lane *lane, uint32_t channel, struct reader *r) {
  uint32_t credit = get_u32(r);
  const char *path = get_string(r);
  if (r->bad) return;
  int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR *folder = fd < 0 ? NULL : fdopendir(fd);
  if (!folder) {
    lane_fail(lane, channel, errno, "open");
    if (fd >= 0) close(fd);
    return;
  }
  size_t room = credit > FRAME_COST ? credit - FRAME_COST : 0;
  if (room > DATA_PAYLOAD) room = DATA_PAYLOAD;
  uint8_t *at = lane_reserve(lane, room);
  struct listing listing = {.writer = {.at = at, .end = at + room}, .fd = -1, .start = at};
  int error = list(folder, &listing);
  if (error == EOVERFLOW) {
    struct job job = {.work = run_list, .fd = fd, .output = true, .credit = credit};
    job_start(lane, channel, &job, "list");
  } else if (error) {
    lane_fail(lane, channel, error, "list");
  } else {
    size_t used = (size_t)(listing.writer.at - at);
    if (used > 0) lane_commit(lane, channel, FRAME_DATA, 1, used);
    lane_send(lane, channel, FRAME_REPLY, 0, NULL, 0);
  }
  closedir(folder);
}

static int remove_below(int folder, const char *name) {
  if (unlinkat(folder, name, 0) == 0) return 0;
  if (errno != EISDIR && errno != EPERM) return errno;
  if (unlinkat(folder, name, AT_REMOVEDIR) == 0) return 0;
  if (errno != ENOTEMPTY && errno != EEXIST) return errno;
  int fd = openat(folder, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) return errno;
  DIR *stream = fdopendir(fd);
  if (!stream) {
    close(fd);
    return ENOMEM;
  }
  int error = 0;
  /* Names that appear or vanish meanwhile are not an error; the folder not being empty at the end is. */
  for (struct dirent *entry; !error && (entry = readdir(stream));) {
    if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
    error = remove_below(fd, entry->d_name);
    if (error == ENOENT) error = 0;
  }
  closedir(stream);
  if (!error && unlinkat(folder, name, AT_REMOVEDIR) < 0) error = errno;
  return error;
}

static int run_remove(void *context) { return remove_below(AT_FDCWD, context); }

void file_remove(struct lane *lane, uint32_t channel, struct reader *r) {
  bool recursive = get_u8(r), force = get_u8(r);
  const char *path = get_string(r);
  if (r->bad) return;
  struct stat s;
  int error = 0;
  if (lstat(path, &s) < 0) {
    error = errno == ENOENT && force ? 0 : errno;
  } else if (!S_ISDIR(s.st_mode)) {
    error = unlink(path) < 0 ? errno : 0;
  } else if (!recursive) {
    error = EISDIR;
  } else {
    struct job job = {.work = run_remove, .context = (void *)(uintptr_t)path, .fd = -1};
    return job_start(lane, channel, &job, "remove");
  }
  if (error) return lane_fail(lane, channel, error, "remove");
  lane_send(lane, channel, FRAME_REPLY, 0, NULL, 0);
}
