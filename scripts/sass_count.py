#!/usr/bin/env python3
"""Counts machine instructions per element of the hot kernels: a prediction, not a measurement.

    scripts/sass_count.py FOLDER [KERNEL-REGEX]     FOLDER: build/cuda/kernels/cuda after make cuda

Needs nvdisasm: NVDISASM=, or in CUDA_HOME, PATH, or the wheel nvidia-cuda-nvdisasm (13.2.78 is
what the tables of profiles/predicted were made with). Exit status 77 without it.

Of each loop it takes the way round with the most wide accesses, and of those the shortest; of a
kernel's loops the one with the fewest instructions per element. "entry to exit" is the same for
the whole kernel, each loop gone round once: with a thread's setting up, so the first is less than
what a full tile takes, and the last more.
"""
import glob
import os
import re
import shutil
import subprocess
import sys

# target: a GPU of it, processors, GHz while busy, TB/s: the makers' figures, clocks rounded.
GPUS = {'80': ('A100-80', 108, 1.41, 2.04), '90a': ('H200', 132, 1.7, 4.8),
        '100f': ('B200', 148, 1.9, 8.0), '120f': ('RTX 5090', 170, 2.4, 1.79)}
# kernel: the access that tells elements (L loads, S stores), its least bytes
HOT = [(r'quantize_(e2m1|both|groups_e2m1)<', 'S', 8), (r'fake_(e2m1|pass)<', 'S', 16),
       (r'transform_e2m1<.,.,[02]>', 'S', 8),
       (r'dequantize_e2m1<', 'S', 16), (r'amax', 'L', 16),
       (r'range_', 'L', 16), (r'histogram<', 'L', 16),
       (r'steps_(units|groups|gradient)<[012]', 'S', 16)]
# Instructions at half the issue rate (integer, logic, select, compare), and at an eighth.
ALU = re.compile(r'(U?(IADD3?|LOP3|SHF|PRMT|SEL|ISETP|PLOP3|LEA|VIADD|VIMNMX3?|IMNMX|IABS|BREV|'
                 r'SGXT|BMSK|P2R|R2P)|FMNMX3?|FSETP|FSEL|FSET|HMNMX2|VHMNMX|HSETP2|HSET2|'
                 r'LEPC|F2FP|I2FP)$')
XU = re.compile(r'(MUFU|F2F|F2I|I2F|FRND|POPC|FLO|UPOPC|UFLO)$')
MEMORY = re.compile(r'(LDG|STG|LDS|STS|LD|ST|LDL|STL|ATOM|ATOMG|ATOMS|RED|REDG|LDGSTS|SHFL)$')


def find_nvdisasm():
    home = os.environ.get('CUDA_HOME', '/usr/local/cuda')
    for path in [os.environ.get('NVDISASM'), home + '/bin/nvdisasm', shutil.which('nvdisasm')]:
        if path and os.access(path, os.X_OK):
            return path
    for folder in sys.path:
        for path in glob.glob(folder + '/nvidia/cu*/bin/nvdisasm'):
            return path
    print('no nvdisasm: pip install nvidia-cuda-nvdisasm==13.2.78, or NVDISASM=')
    sys.exit(77)


class Block:
    def __init__(self):
        self.ops, self.next, self.place = [], [], -1


def width(op):
    """Bytes of a global load or store, 0 of anything else."""
    parts = op.split('.')
    if parts[0] not in ('LDG', 'STG', 'LD', 'ST'):
        return 0
    for name, size in (('256', 32), ('128', 16), ('64', 8), ('U16', 2), ('U8', 1), ('S8', 1)):
        if name in parts or name in op.rsplit('.', 1)[-1]:
            return size
    return 4


def blocks_of(lines):
    """Basic blocks in the order of their addresses, with the edges between them."""
    blocks, current, labels, ends, meeting = [], None, {}, [], {}
    for line in lines:
        label = re.match(r'(\.L_\w+):', line)
        code = re.match(r'\s+/\*([0-9a-f]+)\*/\s+(@!?U?P\d+\s+)?([A-Z][\w.]*)(.*)', line)
        if label or (code and current is None):
            current = Block()
            blocks.append(current)
            if label:
                labels[label.group(1)] = current
        if not code:
            continue
        guard, op, rest = code.group(2), code.group(3), code.group(4)
        current.ops.append(op)
        target = re.search(r'`\((\.L_\w+)\)', rest)
        name = op.split('.')[0]
        if name == 'BSSY':
            meeting[rest.split(',')[0].strip()] = target.group(1)
        # A call of a label in the same function is a jump; others return here.
        if name in ('BRA', 'EXIT', 'BSYNC', 'RET', 'BRX') or (name == 'CALL' and target):
            sure = not guard and not re.match(r'\s*!?U?P\d', rest) and op != 'BRA.DIV'
            if name == 'BSYNC':
                sure, to = True, meeting.get(rest.split(';')[0].strip())
            else:
                to = target.group(1) if target and op != 'BRA.DIV' else None
            ends.append((current, to, sure))
            current = None
    ended = {id(block): (to, sure) for block, to, sure in ends}
    for i, block in enumerate(blocks):
        to, sure = ended.get(id(block), (None, False))
        if to in labels:
            block.next.append(labels[to])
        if not sure and i + 1 < len(blocks):
            block.next.append(blocks[i + 1])
    return blocks


def order_of(blocks):
    """Number each reachable block so that edges lead up, and return the edges that lead back."""
    back, entered, done, todo = [], set(), [], [(blocks[0], iter(blocks[0].next))]
    entered.add(id(blocks[0]))
    on_way = {id(blocks[0])}
    while todo:
        block, following = todo[-1]
        n = next(following, None)
        if n is None:
            done.append(block)
            on_way.discard(id(block))
            todo.pop()
        elif id(n) in on_way:
            back.append((block, n))
        elif id(n) not in entered:
            entered.add(id(n))
            on_way.add(id(n))
            todo.append((n, iter(n.next)))
    for place, block in enumerate(reversed(done)):
        block.place = place
    return list(reversed(done)), back


def loops_of(blocks, back):
    """(header, last block, body) of each natural loop."""
    before = {id(b): [] for b in blocks}
    for b in blocks:
        for n in b.next:
            before[id(n)].append(b)
    for last, head in back:
        body, todo = {id(head): head, id(last): last}, [last]
        while todo:
            node = todo.pop()
            for p in [] if node is head else before[id(node)]:
                if id(p) not in body:
                    body[id(p)] = p
                    todo.append(p)
        yield head, last, sorted(body.values(), key=lambda x: x.place)


def best_way(start, last, body, kind, least):
    """Ops of the way from start with the most wide bytes, then the fewest instructions."""
    inside = {id(b) for b in body}
    best = {id(start): (0, 0, [])}
    found = None
    for block in body:
        if id(block) not in best:
            continue
        wide, cost, ops = best[id(block)]
        for op in block.ops:
            if op.startswith({'L': 'LD', 'S': 'ST'}[kind]) and width(op) >= least:
                wide -= width(op)
        cost, ops = cost + len(block.ops), ops + block.ops
        if block is last or (last is None and 'EXIT' in block.ops):
            if found is None or (wide, cost) < found[:2]:
                found = (wide, cost, ops)
        for n in block.next:
            if id(n) in inside and n.place > block.place:
                if id(n) not in best or (wide, cost) < best[id(n)][:2]:
                    best[id(n)] = (wide, cost, ops)
    return (-found[0], found[2]) if found else (0, [])


def per_element(kernel):
    """Bytes of the telling access, and of all memory traffic, for one element."""
    arguments = re.findall(r'[<,]([^,<>]+)', kernel)
    dtype = 4.0 if arguments and arguments[0] in ('0', 'float') else 2.0
    if kernel.startswith(('amax', 'range_', 'histogram')):
        return dtype, dtype
    if kernel.startswith('steps'):
        return dtype, dtype * (3 if re.search('gradient|,true>$', kernel) else 2)
    if kernel.startswith('fake_e2m1'):  # the gradient reads x too
        return dtype, dtype * (3 if kernel.endswith(',true>') else 2)
    if kernel.startswith('fake_pass'):  # a mask has a bit
        return dtype, dtype * 2 + (0.125 if kernel.endswith(',true>') else 0)
    if kernel.startswith('quantize_both'):  # two outputs
        return 1.0, dtype + 1.125
    packed = 0.53125 if kernel.startswith('dequantize') and arguments[1:2] == ['32'] else 0.5625
    return (0.5 if re.match('quantize|transform', kernel) else dtype), dtype + packed


def share(pattern, ops):
    return sum(1 for op in ops if pattern.match(op.split('.')[0]))


def count(kernel, target, text, kind, least):
    blocks = blocks_of(text)
    unit, traffic = per_element(kernel)
    blocks, back = order_of(blocks)
    wide, ops = 0, []
    for head, last, body in loops_of(blocks, back):
        found = best_way(head, last, body, kind, least)
        if found[0] and (not wide or len(found[1]) * wide < len(ops) * found[0]):
            wide, ops = found
    all_wide, all_ops = best_way(blocks[0], None, blocks, kind, least)
    if not all_wide:
        return None
    if not wide:
        wide, ops = all_wide, all_ops
    n = wide / unit
    counts = [len(ops) / n, share(ALU, ops) / n, share(XU, ops) / n, share(MEMORY, ops) / n]
    _, processors, ghz, tbs = GPUS[target]
    allowed = processors * 4 * 32 * ghz * 1e9 / (tbs * 1e12 / traffic)
    worst = max(counts[0], 2 * counts[1], 8 * counts[2])
    return '| `%s` | %s | %d | %.1f | %.1f | %.2f | %.2f | %.1f | %.1f | %s |' % (
        kernel, target, n, counts[0], counts[1], counts[2], counts[3],
        len(all_ops) / (all_wide / unit), allowed,
        '> 300 %' if allowed > 3 * worst else '%.0f %%' % (100 * allowed / worst))


def main():
    if len(sys.argv) < 2:
        print(__doc__)
        sys.exit(2)
    wanted = re.compile(sys.argv[2] if len(sys.argv) > 2 else '.')
    tool = find_nvdisasm()
    print('| kernel | target | elements a turn | instructions | of them half rate | 1/8 rate |'
          ' memory | entry to exit | allowed | of full bandwidth |')
    print('|---|---|---|---|---|---|---|---|---|---|')
    rows = []
    for cubin in sorted(glob.glob(sys.argv[1] + '/*.cu.keep/*.cubin')):
        ptx = open(cubin[:-len('cubin')] + 'ptx').read()
        target = re.search(r'\.target sm_(\w+)', ptx).group(1)
        if target not in GPUS:
            continue
        code = subprocess.run([tool, '-c', cubin], capture_output=True, text=True, check=True)
        for part in re.split(r'\n(?=\.text\.)', code.stdout)[1:]:
            mangled = part[len('.text.'):part.index(':')]
            name = subprocess.run(['c++filt', mangled], capture_output=True, text=True,
                                  check=True).stdout.strip()
            name = re.sub(r'\(anonymous namespace\)::|^void | ', '', name)
            name = re.sub(r'>\(.*|^([^(<]*)\(.*', lambda m: m.group(1) or '>', name)
            for pattern, kind, least in HOT:
                if re.match(pattern, name) and wanted.search(name):
                    row = count(name, target, part.split('\n'), kind, least)
                    if row:
                        rows.append((name, target, row))
    for _, _, row in sorted(rows):
        print(row)


main()
