import sys,dataclasses,itertools
from pathlib import Path
sys.path.insert(0,str(Path(__file__).parent))
import kernels as K, device
from trtc.backend.kernels import find
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from trtc.backend.kernels.nvrtc import compile_source
def main():
    names=sys.argv[1].split(",")
    cases=[c for c in K.timed() if c.name in names]
    axes=eval(sys.argv[2]); 
    todo=[]
    for c in cases:
        k=find(c.op,90); l=k.launch(c.op)
        for vals in itertools.product(*axes.values()):
            d=dict(zip(axes,vals)); 
            if d.get("DEPTH",4)%d.get("INPUTS",1): continue
            if "TILES" in d and c.op.activation and d["TILES"]!=2: continue
            l2=dataclasses.replace(l,defines={**l.defines,**d})
            if "WARPS" in d: l2=dataclasses.replace(l2,block=(32*d["WARPS"],1,1))
            if "TILES" in d and not c.op.activation: l2=dataclasses.replace(l2,grid=(-(-c.op.type.shape[-1]//(16*d["TILES"])),*l.grid[1:]))
            todo.append((c,k,l2,d))
    with ProcessPoolExecutor(16,mp_context=get_context("spawn")) as pool:
        list(pool.map(compile_source,[t[1].source for t in todo],[dict(t[2].defines) for t in todo],[90]*len(todo)))
    last=None
    best=[]
    bw=3.0e12
    for c,k,l,d in todo:
        if c is not last:
            sets=None
            import torch
            total=sum(v.type.nbytes() for v in c.op.operands.values()); copies=max(2,min(24,-(-300_000_000//total)))
            sets=[K.random_operands(c) for _ in range(copies)]; 
            if last: print(last.name, *[f"{u:.2f} {x}" for u,x in sorted(best,key=lambda b:b[0])[:6]], "worst %.2f"%max(b[0] for b in best), sep="\n   ", flush=True)
            best=[]; last=c
        kk=dataclasses.replace(k,rule=lambda op,l=l:l)
        loaded=device.prepare(kk,c.op,{}); results=device.outputs(c.op,loaded,sets[0])
        t=device.graph_time(lambda i:loaded(sets[i%len(sets)],results,overlap=True), max(12,copies), 5)
        best.append((t*1e6,d))
    print(last.name, *[f"{u:.2f} {x}" for u,x in sorted(best,key=lambda b:b[0])[:6]], "worst %.2f"%max(b[0] for b in best), sep="\n   ", flush=True)
if __name__=="__main__": main()
