"""The script of the page: replaces sections that have changed, and greys out old data.

A section with the focus keeps it on the same link; one in which text is selected is replaced later.
Without a stream, because too many pages follow already, the whole page is fetched now and then.
"""

from typing import Final

SCRIPT: Final = """
(function(){
var url=document.body.dataset.events,age=document.getElementById('age');
var last=Date.now(),later={};
function selected(place){
var found=window.getSelection();
return !found.isCollapsed&&place.contains(found.anchorNode);}
function put(id,html){
var place=document.getElementById(id),focus=document.activeElement;
if(!place)return;
if(selected(place)){later[id]=html;return;}
delete later[id];
if(place.innerHTML===html)return;
var target=place.contains(focus)&&focus.getAttribute('href');
place.innerHTML=html;
if(target===false)return;
var same=[...place.querySelectorAll('a')].find(function(one){
return one.getAttribute('href')===target;});
if(!same){place.tabIndex=-1;same=place;}
same.focus({preventScroll:true});}
function follow(){
var source=new EventSource(url+location.search);
source.addEventListener('section',function(event){
var part=JSON.parse(event.data);put(part.id,part.html);});
source.addEventListener('tick',function(){last=Date.now();});
source.onerror=function(){
if(source.readyState===EventSource.CLOSED)setTimeout(renew,5000);};}
function renew(){
fetch(location.href).then(function(answer){
if(!answer.ok)throw answer.status;
return answer.text();}).then(function(text){
var fresh=new DOMParser().parseFromString(text,'text/html');
document.querySelectorAll('[data-live]').forEach(function(place){
var part=fresh.getElementById(place.id);if(part)put(place.id,part.innerHTML);});
last=Date.now();}).catch(function(){}).then(follow);}
setInterval(function(){
var seconds=Math.round((Date.now()-last)/1000),old=seconds>15;
document.body.classList.toggle('stale',old);
age.textContent=old?'No answer from relayd for '+seconds+' s':'Live, '+seconds+' s old';
Object.keys(later).forEach(function(id){put(id,later[id]);});
},1000);
follow();
})();
"""
