#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "agent.h"

enum { ROOT_WAIT_MS = 5000, LANE_WAIT_MS = 5000, OWNER_WAIT_S = 120 };

bool owner_attached;
static char command_line[4096];

static void stop(void) __attribute__((noreturn));
static void stop(void) {
  say("boot failed");
  sync();
  reboot(RB_POWER_OFF);
  reboot(RB_AUTOBOOT);
  for (;;) pause();
}

/* Copies the value of `name=value` from the kernel's command line; the last one counts, as for the kernel. */
static bool parameter(const char *name, char *value, size_t size) {
  bool found = false;
  size_t length = strlen(name);
  for (const char *at = command_line; *at;) {
    size_t word = strcspn(at, " \t\n");
    if (strncmp(at, name, length) == 0 && at[length] == '=' && word > length) {
      snprintf(value, size, "%.*s", (int)(word - length - 1), at + length + 1);
      found = true;
    }
    at += word;
    at += strspn(at, " \t\n");
  }
  return found;
}

static bool mount_at(const char *type, const char *target, unsigned long flags, const char *options) {
  mkdir(target, 0755);
  if (mount(type, target, type, flags, options) == 0 || errno == EBUSY) return true;
  say("can't mount %s at %s: %s (errno %d)", type, target, strerror(errno), errno);
  return false;
}

static void read_command_line(void) {
  int fd = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);
  ssize_t n = fd < 0 ? 0 : read(fd, command_line, sizeof command_line - 1);
  if (n > 0) command_line[n] = 0;
  if (fd >= 0) close(fd);
}

static void open_console(void) {
  int null = open("/dev/null", O_RDWR);
  int console = open("/dev/console", O_WRONLY | O_NOCTTY);
  if (null >= 0) dup2(null, 0);
  if (console < 0) console = null;
  if (console >= 0) dup2(console, 1), dup2(console, 2);
  if (null > 2) close(null);
  if (console > 2 && console != null) close(console);
}

static bool try_mount(const char *device, const char *type, unsigned long flags) {
  return mount(device, "/newroot", type, flags, NULL) == 0;
}

/* Every type that the kernel knows and that lives on a disk. */
static bool try_all_types(const char *device, unsigned long flags) {
  FILE *file = fopen("/proc/filesystems", "re");
  char line[128];
  bool mounted = false;
  while (file && !mounted && fgets(line, sizeof line, file)) {
    if (line[0] != '\t') continue;
    line[strcspn(line, "\n")] = 0;
    mounted = try_mount(device, line + 1, flags);
  }
  if (file) fclose(file);
  return mounted;
}

static void mount_root(const char *device) {
  char type[32] = "auto", option[32];
  bool read_only = parameter("smolvm.rootro", option, sizeof option) && strcmp(option, "1") == 0;
  parameter("smolvm.rootfstype", type, sizeof type);
  int64_t deadline = now_ms() + ROOT_WAIT_MS;
  while (access(device, F_OK) < 0) {
    if (now_ms() >= deadline) {
      say("no root device %s after %d ms", device, ROOT_WAIT_MS);
      stop();
    }
    usleep(1000);
  }
  mkdir("/newroot", 0755);
  unsigned long flags = read_only ? MS_RDONLY : 0;
  bool any = strcmp(type, "auto") == 0;
  bool mounted = any ? try_all_types(device, flags) : try_mount(device, type, flags);
  if (!mounted && (errno == EROFS || errno == EACCES)) {
    flags |= MS_RDONLY; /* a disk that can't be written, or a type that is read-only by nature */
    mounted = any ? try_all_types(device, flags) : try_mount(device, type, flags);
  }
  if (!mounted) {
    say("can't mount %s as %s: %s (errno %d)", device, type, strerror(errno), errno);
    stop();
  }
  say("root %s mounted (%s%s)", device, type, flags & MS_RDONLY ? ", read-only" : "");
}

/* The memory of the initramfs is the machine's: everything on it goes, the running program itself at its end. */
static void empty_folder(int fd, dev_t device) {
  DIR *folder = fdopendir(fd);
  if (!folder) {
    close(fd);
    return;
  }
  for (struct dirent *entry; (entry = readdir(folder));) {
    struct stat s;
    if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
    if (fstatat(dirfd(folder), entry->d_name, &s, AT_SYMLINK_NOFOLLOW) < 0 || s.st_dev != device) continue;
    if (S_ISDIR(s.st_mode)) {
      int below = openat(dirfd(folder), entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
      if (below >= 0) empty_folder(below, device);
      unlinkat(dirfd(folder), entry->d_name, AT_REMOVEDIR);
    } else {
      unlinkat(dirfd(folder), entry->d_name, 0);
    }
  }
  closedir(folder);
}

static void carry_over(const char *from, const char *to) {
  mkdir(to, 0755);
  if (mount(from, to, NULL, MS_MOVE, NULL) < 0) say("can't move %s to %s: %s (errno %d)", from, to, strerror(errno), errno);
}

static void enter_root(void) {
  carry_over("/dev", "/newroot/dev");
  carry_over("/proc", "/newroot/proc");
  carry_over("/sys", "/newroot/sys");
  struct stat old, new;
  int fd = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (chdir("/newroot") < 0 || stat(".", &new) < 0 || fd < 0 || fstat(fd, &old) < 0) stop();
  if (mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0 || chdir("/") < 0) {
    say("can't move into the root: %s (errno %d)", strerror(errno), errno);
    stop();
  }
  if (old.st_dev != new.st_dev) {
    empty_folder(fd, old.st_dev);
  } else {
    close(fd);
  }
}

static void mount_rest(void) {
  static const char *const links[][2] = {
      {"/proc/self/fd", "/dev/fd"},
      {"/proc/self/fd/0", "/dev/stdin"},
      {"/proc/self/fd/1", "/dev/stdout"},
      {"/proc/self/fd/2", "/dev/stderr"},
  };
  mount_at("devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "mode=0620,gid=5,ptmxmode=0666");
  mount_at("tmpfs", "/dev/shm", MS_NOSUID | MS_NODEV, "mode=1777");
  for (size_t i = 0; i < sizeof links / sizeof *links; i++) {
    int ignored = symlink(links[i][0], links[i][1]); /* shells expect these, but run without them */
    (void)ignored;
  }
  mount_at("tmpfs", "/run", MS_NOSUID | MS_NODEV, "mode=0755");
  mkdir("/run/lock", 01777);
  /* A disk can be filled; memory for /tmp would be taken from the commands. Only where the root can't be written: */
  if (access("/tmp", W_OK) < 0) mount_at("tmpfs", "/tmp", MS_NOSUID | MS_NODEV, "mode=1777");
  if (mount("cgroup2", "/sys/fs/cgroup", "cgroup2", MS_NOSUID | MS_NODEV | MS_NOEXEC, "nsdelegate,favordynmods") < 0 &&
      mount("cgroup2", "/sys/fs/cgroup", "cgroup2", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0) {
    tree_start(NULL);
  } else {
    tree_start("/sys/fs/cgroup/smolvm");
  }
}

/* Ports carry their names in sysfs; udev, which would make links of them, is not needed. */
static int attach_lanes(void) {
  DIR *ports = opendir("/sys/class/virtio-ports");
  int count = 0;
  for (struct dirent *entry; ports && (entry = readdir(ports));) {
    char path[320], name[64] = "";
    unsigned number;
    if (entry->d_name[0] == '.') continue;
    snprintf(path, sizeof path, "/sys/class/virtio-ports/%s/name", entry->d_name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) continue;
    ssize_t n = read(fd, name, sizeof name - 1);
    close(fd);
    if (n <= 0 || sscanf(name, "org.smolvm.agent.%u", &number) != 1 || number >= MAX_LANES) continue;
    if (lanes[number].fd >= 0) continue;
    snprintf(path, sizeof path, "/dev/%s", entry->d_name);
    fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) continue; /* its node may come a moment later */
    lane_attach((int)number, fd);
    count++;
  }
  if (ports) closedir(ports);
  return count;
}

static struct watch late_lanes;
static int late_lanes_timer = -1;
static int looks_left = 100;

static void look_for_late_lanes(struct watch *watch, uint32_t events) {
  (void)watch, (void)events;
  uint64_t expired;
  if (read(late_lanes_timer, &expired, sizeof expired) < 0) return;
  attach_lanes();
  if (--looks_left > 0) return;
  loop_close(late_lanes_timer);
  late_lanes_timer = -1;
}

/* The kernel announces the ports one by one. One is enough to begin with; the others are looked for during the next second. */
static void find_lanes(void) {
  int64_t deadline = now_ms() + LANE_WAIT_MS;
  while (attach_lanes() == 0) {
    if (now_ms() >= deadline) {
      say("no channel to the host: no virtio port named org.smolvm.agent.N");
      stop();
    }
    usleep(1000);
  }
  late_lanes.on_event = look_for_late_lanes;
  late_lanes_timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
  struct timespec interval = {.tv_nsec = 10 * 1000000};
  struct itimerspec times = {.it_interval = interval, .it_value = interval};
  if (late_lanes_timer < 0) return;
  timerfd_settime(late_lanes_timer, 0, &times, NULL);
  loop_add(late_lanes_timer, EPOLLIN, &late_lanes);
}

static struct watch owner_watch;
static int owner_timer = -1;

static void owner_is_late(struct watch *watch, uint32_t events) {
  (void)watch, (void)events;
  uint64_t expired;
  if (read(owner_timer, &expired, sizeof expired) < 0) return;
  loop_close(owner_timer);
  owner_timer = -1;
  if (lanes[0].was_open) return;
  say("the owner has not come");
  power_off();
}

/* An owner that ended before it opened its lane can't close it: without this the machine would run for ever. */
static void expect_owner(void) {
  char value[16];
  int seconds = parameter("smolvm.ownerwait", value, sizeof value) ? atoi(value) : 0;
  owner_watch.on_event = owner_is_late;
  owner_timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
  struct itimerspec times = {.it_value = {.tv_sec = seconds > 0 ? seconds : OWNER_WAIT_S}};
  if (owner_timer < 0) return;
  timerfd_settime(owner_timer, 0, &times, NULL);
  loop_add(owner_timer, EPOLLIN, &owner_watch);
}

/* `smolvm.init=image`: the image's own init becomes the first process, and the agent goes on beside it. */
static void hand_over(void) {
  if (access("/sbin/init", X_OK) < 0) {
    say("no /sbin/init in the image: staying first process");
    return;
  }
  pid_t pid = fork();
  if (pid < 0) say("can't fork: %s (errno %d)", strerror(errno), errno);
  if (pid <= 0) return;
  execl("/sbin/init", "/sbin/init", (char *)NULL);
  say("can't run /sbin/init: %s (errno %d)", strerror(errno), errno);
  stop();
}

void boot(void) {
  mount_at("proc", "/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
  mount_at("sysfs", "/sys", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
  mount_at("devtmpfs", "/dev", MS_NOSUID, "mode=0755");
  open_console();
  reboot(RB_DISABLE_CAD);
  read_command_line();
  say("agent %s", AGENT_VERSION);
  load_modules("/lib/smolvm/modules");
  char value[256];
  owner_attached = parameter("smolvm.owner", value, sizeof value) && strcmp(value, "1") == 0;
  if (parameter("smolvm.root", value, sizeof value)) {
    mount_root(value);
    enter_root();
    if (access("/bin/sh", X_OK) < 0) say("the image has no /bin/sh: only commands given as an argument vector will run");
  } else {
    say("no root device: staying in the initramfs");
  }
  mount_rest();
  if (parameter("smolvm.init", value, sizeof value) && strcmp(value, "image") == 0) hand_over();
  loop_start();
  find_lanes();
  if (owner_attached) expect_owner();
  say("ready");
}
