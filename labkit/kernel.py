"""The few kernel calls that Python has no function for: namespaces, virtual cables, mounts.

Everything here works for an ordinary user *inside a user namespace*: the process that creates one
is its root, and may create network namespaces, cables and mounts that nobody outside can see.
See namespaces(7), user_namespaces(7), veth(4), rtnetlink(7), prctl(2).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import signal
import socket
import struct
import sys

_libc = ctypes.CDLL(None, use_errno=True)

# <linux/sched.h>
NEW_MOUNT = 0x0002_0000
NEW_USER = 0x1000_0000
NEW_PID = 0x2000_0000
NEW_NET = 0x4000_0000

# <linux/mount.h>
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x4_0000

_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_PDEATHSIG, _PR_SET_TIMERSLACK, _PR_SET_NO_NEW_PRIVS = 1, 29, 38


def _checked(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def unshare(flags: int, what: str = "unshare") -> None:
    """Move this process (NEW_PID: its next child) into new namespaces. OSError when refused."""
    _checked(_libc.unshare(flags), what)


def enter_network(fd: int) -> None:
    """Move this *thread* into the network namespace that *fd* names; new sockets belong there."""
    _checked(_libc.setns(fd, NEW_NET), "setns")


def mount(source: str, target: str, kind: str, flags: int = 0) -> None:
    args = (source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), None)
    _checked(_libc.mount(*args), f"mount {target}")


def die_with_parent(parent: int) -> None:
    """Be killed when the process *parent* dies, also when it is killed without a last word.

    The kernel watches the parent's *thread* that forked (prctl(2)), so that one must stay.
    """
    _checked(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl")
    if os.getppid() not in (parent, 0):  # It died before the call. (0: it is outside our PID namespace.)
        os._exit(1)


def precise_timers() -> None:
    """Wake this thread when its time has come, not up to 50 µs later to save power."""
    _checked(_libc.prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0), "prctl")


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent has died, so that none escapes."""
    if sys.platform.startswith("linux"):
        _checked(_libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl")


def forbid_privileges() -> None:
    """No program started from here gains rights that this process does not have (setuid, files)."""
    _checked(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")


def become_root_of_new_world() -> None:
    """Enter new user, mount, network and PID namespaces in which this user is root.

    The PID namespace takes effect for the next child, which is its process 1: when that one dies,
    the kernel kills all the others. OSError, naming the step, where the system forbids it.
    """
    uid, gid = os.getuid(), os.getgid()
    unshare(NEW_USER, "new user namespace")
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        try:
            with open(f"/proc/self/{name}", "w") as file:  # user_namespaces(7)
                file.write(text)
        except OSError as error:
            raise OSError(error.errno, f"be root of the new user namespace: {error.strerror} ({name})") from None
    unshare(NEW_MOUNT, "new mount namespace")
    unshare(NEW_NET, "new network namespace")
    unshare(NEW_PID, "new PID namespace")
    mount("none", "/", "none", MS_REC | MS_PRIVATE)  # What we mount, nobody else sees.


def why_refused(error: OSError) -> str:
    """What on this machine is the likely reason that `become_root_of_new_world` failed; "" if unknown."""
    kind = str(error.strerror).partition(" namespace:")[0].rpartition(" ")[2].lower()
    kind = {"mount": "mnt", "network": "net"}.get(kind, kind)
    if error.errno == errno.ENOSPC:  # Also where a namespace further out has used up its share.
        return f"the limit user.max_{kind}_namespaces is reached"
    if _setting("kernel/unprivileged_userns_clone") == "0":
        return "the setting kernel.unprivileged_userns_clone is 0"
    if _setting("kernel/apparmor_restrict_unprivileged_userns") == "1":
        return "AppArmor forbids it (the setting kernel.apparmor_restrict_unprivileged_userns is 1)"
    if error.errno in (errno.EPERM, errno.ENOSYS) and "\nSeccomp:\t2" in _text("/proc/self/status"):
        return "a seccomp filter forbids it, as that of a container does (Docker: --security-opt seccomp=unconfined)"
    return ""


def _setting(name: str) -> str:
    return _text(f"/proc/sys/{name}").strip()


def _text(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


# --- Virtual cables: rtnetlink for the one thing that ioctl cannot do, ioctl for the rest. --------

# <linux/netlink.h>, <linux/rtnetlink.h>, <linux/if_link.h>, <linux/veth.h>
_RTM_NEWLINK, _RTM_NEWROUTE = 16, 24
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_EXCL, _NLM_F_CREATE = 1, 4, 0x200, 0x400
_IFLA_IFNAME, _IFLA_LINKINFO, _IFLA_NET_NS_FD = 3, 18, 28
_IFLA_INFO_KIND, _IFLA_INFO_DATA, _VETH_INFO_PEER = 1, 2, 1
_IFINFOMSG = struct.pack("BxHiII", socket.AF_UNSPEC, 0, 0, 0, 0)
_RTA_DST, _RTA_OIF, _RTA_METRICS, _RTAX_MTU = 1, 4, 8, 2
_RT_TABLE_MAIN, _RTPROT_STATIC, _RT_SCOPE_LINK, _RTN_UNICAST = 254, 4, 253, 1


def _attribute(kind: int, value: bytes) -> bytes:
    length = 4 + len(value)
    return struct.pack("HH", length, kind) + value + bytes(-length % 4)


def _ask(message: int, body: bytes, what: str) -> None:
    """Have the kernel's network side create something; OSError, saying what, when it does not."""
    flags = _NLM_F_REQUEST | _NLM_F_ACK | _NLM_F_CREATE | _NLM_F_EXCL
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as netlink:  # 0: NETLINK_ROUTE
        netlink.send(struct.pack("IHHII", 16 + len(body), message, flags, 1, 0) + body)
        (error,) = struct.unpack_from("i", netlink.recv(4096), 16)
    if error:
        raise OSError(-error, f"{what}: {os.strerror(-error)}")


def create_cable(near: str, far: str, far_network: int) -> None:
    """Create a veth pair: interface *near* here, *far* in the namespace that *far_network* names."""
    peer = _IFINFOMSG + _attribute(_IFLA_IFNAME, far.encode() + b"\0")
    peer += _attribute(_IFLA_NET_NS_FD, struct.pack("i", far_network))
    info = _attribute(_IFLA_INFO_KIND, b"veth")
    info += _attribute(_IFLA_INFO_DATA, _attribute(_VETH_INFO_PEER, peer))
    body = _IFINFOMSG + _attribute(_IFLA_IFNAME, near.encode() + b"\0") + _attribute(_IFLA_LINKINFO, info)
    _ask(_RTM_NEWLINK, body, "create a veth pair")


def limit_route(interface: str, destination: str, mtu: int) -> None:
    """Send to *destination* no packets larger than *mtu*, though the interface would take them."""
    body = struct.pack("8BI", socket.AF_INET, 32, 0, 0, _RT_TABLE_MAIN, _RTPROT_STATIC, _RT_SCOPE_LINK, _RTN_UNICAST, 0)
    body += _attribute(_RTA_DST, socket.inet_aton(destination))
    body += _attribute(_RTA_OIF, struct.pack("I", socket.if_nametoindex(interface)))
    body += _attribute(_RTA_METRICS, _attribute(_RTAX_MTU, struct.pack("I", mtu)))
    _ask(_RTM_NEWROUTE, body, "limit the size of packets on a route")


# <linux/sockios.h>, <linux/if.h>, <linux/ethtool.h>
_SIOCSIFFLAGS, _SIOCSIFADDR, _SIOCSIFNETMASK = 0x8914, 0x8916, 0x891C
_SIOCSIFMTU, _SIOCSIFHWADDR, _SIOCETHTOOL = 0x8922, 0x8924, 0x8946
_IFF_UP, _IFF_RUNNING, _IFF_NOARP = 0x1, 0x40, 0x80
_ETHTOOL_STXCSUM, _ETHTOOL_STSO, _ETHTOOL_SGSO, _ETHTOOL_SGRO = 0x17, 0x1F, 0x24, 0x2C
_ARPHRD_ETHER = 1
_MAC = bytes.fromhex("020000000001")


def bring_up(name: str, address: str | None = None, mtu: int = 1500) -> None:
    """Bring an interface of this network namespace up.

    Every interface has the same MAC address and asks no ARP questions, so a frame that one host
    sends can be handed to any other host as it is. Offloads are off: what is on the wire are the
    segments a network card would send, each with its checksum, and not one 64 kB giant.
    """

    def ifreq(value: bytes) -> bytes:
        return struct.pack("16s24s", name.encode(), value)

    def inet(text: str) -> bytes:
        return struct.pack("HH4s", socket.AF_INET, 0, socket.inet_aton(text))

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        if name == "lo":
            fcntl.ioctl(control, _SIOCSIFFLAGS, ifreq(struct.pack("H", _IFF_UP | _IFF_RUNNING)))
            return
        fcntl.ioctl(control, _SIOCSIFHWADDR, ifreq(struct.pack("H6s", _ARPHRD_ETHER, _MAC)))
        fcntl.ioctl(control, _SIOCSIFMTU, ifreq(struct.pack("i", mtu)))
        for command in (_ETHTOOL_STXCSUM, _ETHTOOL_STSO, _ETHTOOL_SGSO, _ETHTOOL_SGRO):
            value = ctypes.create_string_buffer(struct.pack("II", command, 0))
            pointer = struct.pack("P", ctypes.addressof(value))
            fcntl.ioctl(control, _SIOCETHTOOL, ifreq(pointer))
        if address:
            fcntl.ioctl(control, _SIOCSIFADDR, ifreq(inet(address)))
            fcntl.ioctl(control, _SIOCSIFNETMASK, ifreq(inet("255.255.255.0")))
        flags = _IFF_UP | _IFF_RUNNING | _IFF_NOARP
        fcntl.ioctl(control, _SIOCSIFFLAGS, ifreq(struct.pack("H", flags)))


def new_network() -> int:
    """Enter a new, empty network namespace; return a file descriptor that names it."""
    unshare(NEW_NET, "new network namespace")
    for which in ("default", "all"):  # The hosts speak IPv4. (A container's /proc/sys may be read-only.)
        with contextlib.suppress(OSError), open(f"/proc/sys/net/ipv6/conf/{which}/disable_ipv6", "w") as file:
            file.write("1")
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
