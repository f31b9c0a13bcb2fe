#include <errno.h>
#include <fcntl.h>
#include <linux/types.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "agent.h"

enum { EXT4_MAGIC = 0xEF53, SECTOR = 512 };
/* Of the kernel's fs/ext4/ext4.h, which is no header for programs: the new number of blocks. */
#define EXT4_IOC_RESIZE_FS _IOW('f', 16, __u64)

/* Bytes of the disk that a file is on; 0 if it is on none. */
static uint64_t disk_size(dev_t device) {
  char path[64], text[32];
  snprintf(path, sizeof path, "/sys/dev/block/%u:%u/size", major(device), minor(device));
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return 0;
  ssize_t n = read(fd, text, sizeof text - 1);
  close(fd);
  if (n <= 0) return 0;
  text[n] = 0;
  return strtoull(text, NULL, 10) * SECTOR;
}

/* Work of a job: the kernel writes as many group descriptors as the disk has grown by. */
int grow_root(void *context) {
  (void)context;
  if (!is_init) return EPERM; /* under test "/" is somebody else's */
  int fd = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  struct stat s;
  struct statfs fs;
  if (fd < 0 || fstat(fd, &s) < 0 || fstatfs(fd, &fs) < 0) return errno;
  if (fs.f_type != EXT4_MAGIC || fs.f_bsize <= 0) return EOPNOTSUPP;
  uint64_t size = disk_size(s.st_dev);
  if (size == 0) return ENODEV;
  __u64 blocks = size / (uint64_t)fs.f_bsize;
  return ioctl(fd, EXT4_IOC_RESIZE_FS, &blocks) < 0 ? errno : 0;
}
