# What the x86 probe executes: long mode with paging, a loop, three interrupts of the timer, then the sign. As a boot sector:
#
#   as probe.s -o probe.o && ld -Ttext 0x7c00 --oformat binary -o probe.bin probe.o
.code16
.globl _start
_start:
    cli
    xor %ax,%ax
    mov %ax,%ds
    mov %ax,%es
    mov %ax,%ss
    mov $0x7c00,%sp
    # Page tables at 0x1000: four levels, the first 2 MiB as one page.
    mov $0x1000,%di
    xor %eax,%eax
    mov $0xc00,%cx
    rep stosl
    movl $0x2003,0x1000
    movl $0x3003,0x2000
    movl $0x83,0x3000
    mov $0x20,%eax
    mov %eax,%cr4
    mov $0x1000,%eax
    mov %eax,%cr3
    mov $0xc0000080,%ecx
    rdmsr
    or $0x100,%ax
    wrmsr
    mov %cr0,%eax
    or $0x80000001,%eax
    lgdt gdtr
    mov %eax,%cr0
    ljmp $8,$long
.code64
long:
    mov $16,%eax
    mov %eax,%ss
    mov $0x7c00,%esp
    # Work.
    mov $50000000,%ecx
1:  dec %ecx
    jnz 1b
    # IDT at 0x4000: the timer's interrupt is number 32.
    mov $0x4200,%edi
    mov $tick,%eax
    mov %ax,(%rdi)
    movw $8,2(%rdi)
    movw $0x8e00,4(%rdi)
    shr $16,%eax
    mov %ax,6(%rdi)
    movq $0,8(%rdi)
    lidt idtr
    # Interrupt controller: 32 and up, only the timer.
    mov $0x11,%al
    out %al,$0x20
    mov $0x20,%al
    out %al,$0x21
    mov $4,%al
    out %al,$0x21
    mov $1,%al
    out %al,$0x21
    mov $0xfe,%al
    out %al,$0x21
    xor %ebx,%ebx
    sti
2:  hlt
    cmp $3,%ebx
    jb 2b
    mov $0x20,%al
    out %al,$0xf4
3:  hlt
    jmp 3b
tick:
    push %rax
    inc %ebx
    mov $0x20,%al
    out %al,$0x20
    pop %rax
    iretq
.balign 8
gdt:
    .quad 0
    .quad 0x00209a0000000000
    .quad 0x0000920000000000
gdtr:
    .word . - gdt - 1
    .long gdt
idtr:
    .word 0x20f
    .quad 0x4000
    .org 510
    .word 0xaa55
