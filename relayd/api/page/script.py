"""The script of the page: replaces sections that have changed, and greys out old data."""

from typing import Final

SCRIPT: Final = """
(function(){
var url=document.body.dataset.events;if(!url||!window.EventSource)return;
var last=Date.now(),age=document.getElementById('age');
var source=new EventSource(url+location.search);
source.addEventListener('section',function(event){
var part=JSON.parse(event.data),place=document.getElementById(part.id);
if(place&&!place.contains(document.activeElement))place.innerHTML=part.html;});
source.addEventListener('tick',function(){last=Date.now();});
setInterval(function(){
var seconds=Math.round((Date.now()-last)/1000),old=seconds>15;
document.body.classList.toggle('stale',old);
if(age)age.textContent=old?'No answer from relayd for '+seconds+' s':'Live, '+seconds+' s old';
},1000);
})();
"""
